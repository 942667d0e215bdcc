"""Explanations of T08xx: code generation and the toolchain."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0801",
        "no C++ compiler",
        "Executables and libraries are made by a C++17 compiler, and neither $CXX nor PATH leads to one.",
        "PATH= tesserac build model.py",
        "Install g++ (12 or newer is tested), or set CXX to a compiler. `tesserac doctor` says what was found; "
        "`--emit=cpp` writes the sources without compiling them.",
    ),
    Explanation(
        "T0802",
        "the C++ compiler failed on the emitted project",
        "Emitted code is meant to compile without a warning. When it does not, the compiler is too old for C++17 and "
        "OpenMP, the disk or the memory ran out, the emitted files were changed by hand, or tesserac has a fault.",
        "CXX=g++-4.8 tesserac build model.py",
        "Read the compiler's first error. `make -C FOLDER` prints all of them, `tesserac doctor` tries the compiler on "
        "a small program. If that works and you changed nothing, please report the source.",
    ),
    Explanation(
        "T0803",
        "no make",
        "The emitted folder is built by its Makefile, which needs GNU make.",
        "PATH=/opt/compiler-only tesserac build model.py",
        "Install make, or use `--emit=cpp` and build the folder elsewhere.",
    ),
    Explanation(
        "T0804",
        "the output folder cannot be written",
        "The system refused: you may not write there, a file has the folder's name, or the disk is full. Nothing in "
        "the folder was changed.",
        "tesserac build model.py -o /usr/out",
        "Choose another folder with -o, or make room.",
    ),
    Explanation(
        "T0805",
        "files of yours are in the way",
        "The output folder holds files under names that tesserac would write, and its manifest (.tesserac.json) does "
        "not list them as its own. It never overwrites such files.",
        "tesserac build model.py -o .   # where a Makefile of yours is",
        "Choose another folder with -o, or move the files away.",
    ),
    Explanation(
        "T0806",
        "this build is not available for the target",
        "Emitted CUDA compiles, but is not yet made into executables and libraries by `build`; it also goes into a "
        "folder of its own, since both targets have a Makefile.",
        "tesserac build model.py --target cuda --emit=exe",
        "Use `--target cuda --emit=cuda`, then `make -C FOLDER compile-only ARCH=sm_90a`.",
    ),
    Explanation(
        "T0807",
        "the built program cannot be started",
        "The file was made, but the system would not run it: it was built for another machine, or the folder is on a "
        "file system that forbids execution.",
        "tesserac run model.py -- bench   # in a folder mounted noexec",
        "Use a folder on another file system.",
    ),
    Explanation(
        "T0808",
        "several entries, and none was chosen",
        "The source has several programs, and the command works on one.",
        "tesserac run examples/chapter6.md -- train",
        "Add --entry LABEL; the message lists the labels.",
    ),
    Explanation(
        "T0809",
        "no such kernel, pass or line",
        "The name given to --kernel, --print-after or --stop-after, or the line given to `explain`, does not exist in "
        "this program.",
        "tesserac inspect model.py --stage source --kernel product_qkw",
        "The message lists the names that exist.",
    ),
)
