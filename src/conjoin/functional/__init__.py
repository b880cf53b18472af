"""The functional stack: a spec, a flat dict of arrays and a framework's operations in, arrays out."""
