/* Preloaded before PyTorch: MKL asks this function whether it runs on its vendor's processor and falls back to AVX2
 * kernels where the answer is no, even if the processor has AVX-512. */
int mkl_serv_intel_cpu_true(void) { return 1; }
