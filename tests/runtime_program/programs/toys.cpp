// All toy programs in one binary, chosen by the name it is called by.
#include <cstring>

#include "programs/bigram.h"
#include "programs/points.h"
#include "programs/softmax.h"
#include "programs/valley.h"
#include "runtime/cli.h"

int main(int argc, char** argv) {
  const char* const slash = strrchr(argv[0], '/');
  const char* const name = slash ? slash + 1 : argv[0];
  for (const tsr::Program* program : {&softmax::program, &softmax::program64, &softmax::wrong, &bigram::program, &points::program, &valley::program, &valley::program64, &valley::fold})
    if (strcmp(name, program->name) == 0) return tsr::cli::run(*program, argc, argv);
  return 99;
}
