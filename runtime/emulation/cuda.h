// CUDA for a host compiler: what nvcc declares before the first line of a .cu file. Given to the compiler with -include.
#pragma once
#define TSR_EMULATION 1
#include "builtins.h"
#include "engine.h"
#include "host_api.h"
#include "types.h"
