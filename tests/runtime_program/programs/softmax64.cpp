#include "programs/softmax.h"

#include "runtime/cli.h"

int main(int argc, char** argv) { return tsr::cli::run(softmax::program64, argc, argv); }
