// Prints the fp32 multiply-add rate of all threads together in GFLOP/s: the runtime's own loop, for two seconds.
#include <omp.h>

#include <cstdio>

#include "peak.h"

int main() { std::printf("%.1f\n", tsr::measure_peak<float>(omp_get_max_threads(), 2.0)); }
