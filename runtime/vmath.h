// All vector functions: elementary.h (exp, log, tanh, sin, pow, ...) and activation.h (erf, sigmoid, silu, gelu, ...).
#pragma once
#include "activation.h"
#include "elementary.h"
