#include "runtime/capi.h"

#include "programs/bigram.h"
#include "programs/softmax.h"

tsr::ProgramList tsr::unit_programs() {
  static constexpr const Program* list[] = {&softmax::program, &softmax::program64, &bigram::program};
  return {list, 3};
}
