// cuFFT: the toolkit's header where there is one, else (and in emulation, which brings its own library) the slice of its
// interface that we call: cuFFT 10 to 12, whose values agree in it.
#pragma once

#if __has_include(<cufft.h>) && !defined(TSR_EMULATION)
#include <cufft.h>
#else
using cufftHandle = int;
enum cufftResult : int { CUFFT_SUCCESS = 0, CUFFT_INVALID_PLAN = 1, CUFFT_INVALID_VALUE = 4 };
enum cufftType : int { CUFFT_C2C = 0x29, CUFFT_Z2Z = 0x69 };
constexpr int CUFFT_FORWARD = -1;
struct cufftComplex {
  float x, y;
};
struct cufftDoubleComplex {
  double x, y;
};

extern "C" {
cufftResult cufftPlanMany(cufftHandle*, int rank, int* n, int* inembed, int istride, int idist, int* onembed, int ostride, int odist, cufftType, int batch);
cufftResult cufftSetStream(cufftHandle, cudaStream_t);
cufftResult cufftExecC2C(cufftHandle, cufftComplex*, cufftComplex*, int direction);
cufftResult cufftExecZ2Z(cufftHandle, cufftDoubleComplex*, cufftDoubleComplex*, int direction);
cufftResult cufftDestroy(cufftHandle);
}
#endif
