// Asks Linux for AMX's tile registers, whose contents are so large that a process must request them before it uses them.

#pragma once

#if defined(__x86_64__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

// True if this process and all its threads may use the tiles from now on; a second request is granted again. Refused by
// kernels before 5.16, by sandboxes, and if a thread's stack for signals is too small for the registers.
inline bool may_use_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

#else

inline bool may_use_tiles() { return false; }

#endif
