#include "programs/bigram.h"

#include "runtime/cli.h"

int main(int argc, char** argv) { return tsr::cli::run(bigram::program, argc, argv); }
