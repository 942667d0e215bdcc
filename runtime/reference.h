// Everything the emitted reference program is written against: a small array library in plain double
// precision, without templates, whose operations carry the names of the compiler's primitive ops.
//
// It favours being obviously right over being fast. It shares no code with the compiled program, so
// agreement between the two (`selftest`) is evidence for both.
#pragma once
#include "reference_call.h"
#include "reference_choice.h"
#include "reference_contract.h"
#include "reference_experts.h"
#include "reference_fft.h"
#include "reference_math.h"
#include "reference_random.h"
#include "reference_reduce.h"
#include "reference_tensor.h"
#include "reference_view.h"
#include "reference_wavelet.h"
