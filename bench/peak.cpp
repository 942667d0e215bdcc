// Prints the fp32 multiply-add rate of all threads together in GFLOP/s: the runtime's own loop, for so many seconds.
#include <omp.h>

#include <cstdio>
#include <cstdlib>

#include "peak.h"

int main(int, char** arguments) { std::printf("%.1f\n", tsr::measure_peak<float>(omp_get_max_threads(), std::atof(arguments[1]))); }
