// The instruction set that a library was compiled for; `levels.py` names it, `build.py` defines CONJOIN_LEVEL.

#pragma once

#define CONJOIN_TEXT(x) #x
#define CONJOIN_TEXT_OF(x) CONJOIN_TEXT(x)

extern "C" const char* conjoin_level() { return CONJOIN_TEXT_OF(CONJOIN_LEVEL); }
