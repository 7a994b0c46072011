// The kernels for any processor that the compiler targets.
#define KERNELS baseline_kernels
#include "kernels.inc"
