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
        "A folder holds the program for one target: C++ and a shared library for the CPU, CUDA for the GPU, each with"
        " a Makefile of its own. A shared library is made for the CPU alone.",
        "tesserac build model.py --target cuda --emit=lib",
        "Use `--target cuda` with `--emit=cuda` or `--emit=cuda,exe`, or `--target cpu`.",
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
    Explanation(
        "T0810",
        "no nvcc",
        "CUDA is compiled by NVIDIA's nvcc. It is looked for in $NVCC, on PATH, and among the packages of this Python.",
        "PATH=/opt/without-cuda tesserac build model.py --target cuda",
        "Install it with `pip install 'tesserac[cuda-compile]'`. `--emit=cuda` writes the sources without compiling "
        "them, and `--emulate` builds the same program for the processor, with a C++ compiler alone.",
    ),
    Explanation(
        "T0811",
        "nvcc is too old",
        "Emitted CUDA is C++17 and may be asked for sm_90a; nvcc 12.0 is the first that has both.",
        "NVCC=/usr/local/cuda-10.2/bin/nvcc tesserac build model.py --target cuda",
        "Install a newer one: `pip install 'tesserac[cuda-compile]'` brings a current one.",
    ),
    Explanation(
        "T0812",
        "nvcc does not know an architecture",
        "Every name in --arch is an architecture of NVIDIA's GPUs, as nvcc writes it, and this nvcc has no code for "
        "it.",
        "tesserac build model.py --target cuda --arch sm_81",
        "Choose from the names in the message: sm_80 is the A100, sm_90a the H100 and H200. Newer GPUs than those "
        "named run the program, too: it carries PTX of the oldest.",
    ),
    Explanation(
        "T0813",
        "a tuning file does not fit",
        "`tesserac tune` writes which sizes the CUDA kernels of one program choose, kernel by kernel, by what they "
        "compute. The file is no such file, another version of tesserac wrote it, it was made for another program or "
        "for other sizes, or it names a choice that a kernel does not have.",
        "tesserac build other_model.py --target cuda --tuning tuning.json",
        "Tune again with the flags of the build, or build without --tuning: results are the same bits with and "
        "without it.",
    ),
    Explanation(
        "T0814",
        "a tuning file that fits in part",
        "Some kernels of the program are not in the file, because the source or the sizes have changed since, or the "
        "file was measured on another GPU than the build is for. The program is built, and right, but not as fast "
        "as it could be.",
        "tesserac build model.py --target cuda --tuning tuning.json --arch sm_80   # measured on an sm_90",
        "Run `tesserac tune` again with the flags of the build, on a machine with such a GPU.",
    ),
    Explanation(
        "T0815",
        "no disassembler",
        "`--emit=sass` compiles the kernels for each GPU and prints their machine code with nvdisasm, which "
        "does not come with every nvcc.",
        "tesserac build model.py --emit=sass   # where it is not installed",
        "`pip install nvidia-cuda-nvdisasm`, or `--emit=ptx`, which nvcc writes by itself.",
    ),
    Explanation(
        "T0816",
        "kernels cannot be run on this machine's GPU",
        "`verify` and `tune` reach a GPU through the Python package cupy: memory, copies and times are its. It is not "
        "installed, it does not fit the driver, or the GPU has no room for the buffers of a kernel.",
        "tesserac verify model.py   # with a GPU, without cupy",
        "`pip install 'tesserac[cuda]'` brings a cupy for CUDA 13; smaller sizes (--set, --dim) need less room; "
        "`--emulate` runs the kernels on the processor.",
    ),
)
