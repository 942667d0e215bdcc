"""Explanations of T09xx: data, weights, checkpoints and options of built programs."""

from __future__ import annotations

from tesserac.explanations import Explanation

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        "T0901",
        "a file or folder cannot be read",
        "The system refused to open it: it does not exist, is a folder or a pipe, or you may not read it.",
        "./gpt train --data input=corpsu.txt",
        "Check the spelling and the permissions. Paths are relative to the folder you start the program in. Data is "
        "memory-mapped, so it must be a regular file.",
    ),
    Explanation(
        "T0902",
        "not a .npy file",
        "A file ending in .npy does not start with NumPy's signature, has a malformed header, or has bytes behind its "
        "array.",
        "./net train --data x=x.npy   # x.npy was written by numpy.savez or pickle",
        "Write it with numpy.save(path, array).",
    ),
    Explanation(
        "T0903",
        "a data file is truncated",
        "The header announces more bytes than the file has (or a .u16 file has an odd number of them): it was not "
        "copied or written to its end.",
        "head -c 1000 x.npy > y.npy; ./net train --data x=y.npy",
        "Copy or write the file again.",
    ),
    Explanation(
        "T0904",
        "a .npy file in a form that is not read",
        "The array is big-endian, in Fortran order, or has a type that is no number (strings, objects, records).",
        "./net train --data x=x.npy   # written by numpy.save(path, numpy.asfortranarray(x))",
        "Save numpy.ascontiguousarray(x).astype('<f4').",
    ),
    Explanation(
        "T0905",
        "the shape of an array does not fit the input",
        "Every axis but the first must have the size the program was compiled for. The first may have any length when "
        "the input has a batch axis: it counts samples.",
        "./net train --data x=x.npy   # x.npy is 100 x 6, the input takes N x 5",
        "Reshape the array, or compile with the other size (--shape x=8x6).",
    ),
    Explanation(
        "T0906",
        "the type of the data does not fit the input",
        "An integer input (labels, tokens) was given floating-point numbers, a float input a stream of tokens, or "
        "complex and real numbers were mixed.",
        "./net train --data labels=y.npy   # y.npy holds float64",
        "Save array.astype(numpy.int64) for integer inputs. Float inputs take any float or integer .npy.",
    ),
    Explanation(
        "T0907",
        "NaN or infinity in the data",
        "A value is not finite. One such value makes every weight NaN within a step. The message names input, sample "
        "and position.",
        "./net train --data x=x.npy   # x[3, 2] is nan",
        "Clean the data: numpy.argwhere(~numpy.isfinite(x)) lists the places.",
    ),
    Explanation(
        "T0908",
        "a label, token or index is out of range",
        "The program uses this input as class or row numbers, and the value lies outside the table. The message names "
        "input, sample, position, value and the valid range.",
        "./gpt train --data input=utf16.txt   # byte 255, but the vocabulary has 128 entries",
        "Correct the data, or enlarge the number of classes in the source.",
    ),
    Explanation(
        "T0909",
        "a token stream is shorter than one window",
        "A training sample is a window of consecutive tokens, and its labels need one token more. The file is shorter.",
        "./gpt train --data input=short.txt",
        "Give a longer text, or compile with a shorter sequence.",
    ),
    Explanation(
        "T0910",
        "inputs and data do not match",
        "An input has no data, a name given is no input (or output) of the program, or one is given twice.",
        "./net train --data X=x.npy   # the input is called x",
        "`describe` lists inputs and outputs. Give --data KEY=SPEC once for each input.",
    ),
    Explanation(
        "T0911",
        "a malformed data specification",
        "The argument is not KEY=SPEC, or a sampler has wrong arguments.",
        "./net train --data x=uniform:0",
        "SPEC is a file (.npy, .u16, any other for its bytes), uniform:LO:HI, normal:MEAN:STD, randint:N, const:V, "
        "zeros or grid:LO:HI:N.",
    ),
    Explanation(
        "T0912",
        "sample counts do not match",
        "Arrays or grids of inputs with equally many rows differ in their number of samples, or an array holds none.",
        "./net train --data x=x.npy --data labels=y.npy   # 100 and 99 samples",
        "Sample i of one file belongs to sample i of the others. Give equally many. Points that belong to no "
        "other, as on a boundary, are inputs with a number of rows of their own (--shape xb=64x1).",
    ),
    Explanation(
        "T0913",
        "not a usable safetensors file",
        "The file is truncated, has a malformed header or offsets outside the file, or its checksum does not match.",
        "./net infer --weights model.pt --input x=x.npy --output y.npy",
        "Write it with safetensors.torch.save_file or safetensors.numpy.save_file, or with a built program's --save.",
    ),
    Explanation(
        "T0914",
        "weights do not fit the program",
        "Tensors are missing, extra, or have another shape or an inconvertible type. All of them are listed.",
        "./net infer --weights other.safetensors --input x=x.npy --output y.npy",
        "Rename or transpose the tensors (`describe` lists what the program takes). Any float type is converted.",
    ),
    Explanation(
        "T0915",
        "NaN or infinity in weights",
        "The weights come from a run that diverged.",
        "./net generate --weights diverged.safetensors",
        "Use an earlier file or checkpoint; train with a lower --lr, --warmup or --clip 1, and --check-finite.",
    ),
    Explanation(
        "T0916",
        "a file cannot be written",
        "The folder does not exist or you may not write to it.",
        "./gpt train --data input=corpus.txt --checkpoint /proc/ckpt",
        "Choose a folder that you may write to.",
    ),
    Explanation(
        "T0917",
        "the disk is full",
        "The system reported that no space, quota or file size is left. Files are written beside their final place "
        "and moved there when complete: every earlier checkpoint is whole.",
        "./gpt train --data input=corpus.txt --checkpoint /small/disk",
        "Free space or keep fewer checkpoints (--keep 1), then continue with --resume.",
    ),
    Explanation(
        "T0918",
        "no checkpoint can be used",
        "The folder has no checkpoint that is whole; what is wrong with each is listed.",
        "./gpt train --data input=corpus.txt --checkpoint ckpt --resume   # every file in ckpt is truncated",
        "Restore one of the files, or start again in another folder.",
    ),
    Explanation(
        "T0919",
        "the checkpoint belongs to another run",
        "It was written by another program or another optimizer, whose state does not carry over.",
        "./gpt train --optimizer sgd --checkpoint ckpt --resume   # ckpt is from adamw",
        "Pass the same --optimizer, or take over the weights alone with --weights FILE in a new --checkpoint folder.",
    ),
    Explanation(
        "T0920",
        "wrong usage of a built program",
        "A command or flag is unknown, lacks its value, or needs another flag.",
        "./gpt train --leraning-rate 1e-3",
        "`./gpt --help` lists the commands, `./gpt train --help` the flags of one.",
    ),
    Explanation(
        "T0921",
        "the value of a flag cannot be used",
        "It is no number, out of range, not one of the known words, or the flag means nothing to the optimizer.",
        "./gpt train --lr fast",
        "See the flag's line in --help.",
    ),
    Explanation(
        "T0922",
        "a flag contradicts the source",
        "The source fixes the optimizer or one of its settings; a flag asks for something else.",
        "./net train --optimizer adamw   # the source says optim.sgd",
        "Drop the flag, or change the source and build again.",
    ),
    Explanation(
        "T0923",
        "the checkpoint folder is in use",
        "It holds checkpoints of an earlier run, and --resume was not given. Two runs in one folder would delete each "
        "other's files.",
        "./gpt train --data input=corpus.txt --checkpoint ckpt   # for the second time",
        "Pass --resume to go on, or choose another folder.",
    ),
    Explanation(
        "T0924",
        "the program cannot do this",
        "It has no training step, no forward outputs, is no token model, or has parameters of a type that optimizers "
        "do not update.",
        "./net generate --weights w.safetensors   # net has a float input",
        "`describe` shows what the program has.",
    ),
    Explanation(
        "T0925",
        "training diverged",
        "With --check-finite: the loss or a gradient is NaN or infinite. The message names the first tensor.",
        "./gpt train --lr 100 --check-finite",
        "Lower --lr, add --warmup or --clip 1, or look at the data.",
    ),
    Explanation(
        "T0926",
        "not enough memory",
        "The program maps all its memory before the first step, and the system refused.",
        "./gpt train --threads 4096",
        "Compile with a smaller batch, or use fewer threads: each has its own gradients and scratch memory.",
    ),
    Explanation(
        "T0927",
        "no reference to test against",
        "The program was built without the double-precision reference that selftest compares with.",
        "./gpt selftest",
        "Build it again with the reference.",
    ),
    Explanation(
        "T0928",
        "no timing hooks in this binary",
        "profile needs hooks around every kernel, which are compiled in on request only.",
        "./gpt profile trace.json",
        "Run `make clean && make TRACE=1` in the emitted folder, then profile again.",
    ),
    Explanation(
        "T0929",
        "a wrong argument of the C interface",
        "A pointer is null, an index out of range, or a name unknown.",
        'tessera_create("GTP", NULL, &context, error, sizeof error)',
        "See runtime/tessera.h; the message names the argument.",
    ),
    Explanation(
        "T0930",
        "no device for a CUDA program",
        "A program that was built with --target cuda found no GPU, no driver, or one that its machine code does not "
        "run on. The message says which architectures it was compiled for.",
        "CUDA_VISIBLE_DEVICES= out/gpt selftest",
        "Run it on a machine where `nvidia-smi` shows a GPU, build it with `--arch` for the GPU that is there, or "
        "build it with `--emulate` for the processor.",
    ),
    Explanation(
        "T0931",
        "out of device memory",
        "Everything a run needs on the GPU is taken at its start, in one piece, and there is not that much. The "
        "message lists the largest parts: values in flight grow with the batch, moments with the optimizer.",
        "out/gpt train --data input=corpus.txt   # built for a batch that is too large",
        "Build with a smaller batch (--set or --dim), train with `--optimizer sgd` or `momentum`, or use a GPU with "
        "more memory.",
    ),
    Explanation(
        "T0932",
        "a CUDA call failed",
        "The driver or a kernel reported an error that a correct program on a healthy machine does not cause. The "
        "message names the call and holds CUDA's own words; under the emulation it also names source lines.",
        "out/gpt train --data input=corpus.txt   # while another process resets the GPU",
        "Look at `nvidia-smi` and the system's log first. Then build with `--emulate` and `make MODE=race`, which "
        "checks every access, and report what it finds.",
    ),
    Explanation(
        "T0940",
        "another number of ranks than the mesh has",
        "A program is compiled for the ranks of its mesh, one process each, and was started as another number of "
        "them; started by itself, it is one.",
        "out/TransformerLM train   # compiled for tp=2, dp=4",
        "tesserac run -n 8 out/TransformerLM train ..., or mpirun -n 8; another --mesh compiles for another number.",
    ),
    Explanation(
        "T0941",
        "an environment that does not say which rank this is",
        "Launchers tell a process its rank in environment variables. Here some are missing, are no numbers, or do not "
        "say where ranks on several hosts meet.",
        "TSR_RANK=1 out/gpt train",
        "Start the ranks with `tesserac run -n N`, mpirun, srun or torchrun, or set TSR_RANK and TSR_WORLD_SIZE (and "
        "TSR_HOST and TSR_PORT where there are several hosts).",
    ),
    Explanation(
        "T0942",
        "the ranks cannot meet",
        "Rank 0 listens and all others connect to it when they start. A rank did not come, the port is taken, or rank "
        "0 ended before that.",
        "TSR_PORT=80 tesserac run -n 2 out/gpt train",
        "See what the ranks printed. TSR_PORT sets another port, TSR_INIT_TIMEOUT the seconds they wait.",
    ),
    Explanation(
        "T0943",
        "the ranks do not run the same program",
        "Before anything else the ranks compare compiler version, mesh, plan and executable with rank 0, which prints "
        "both sides of what differs.",
        "mpirun -n 1 out/gpt train : -n 1 older/gpt train",
        "Start one and the same executable on all ranks.",
    ),
    Explanation(
        "T0944",
        "a rank is lost",
        "A rank has died, or has not come to an exchange in time. The message names it, what it was at and the line of "
        "the source that the others wait for; all ranks end with exit code 75.",
        "kill -9 PID_OF_A_RANK",
        "Start the same command again with --resume. TSR_COMM_TIMEOUT sets the seconds an exchange may wait.",
    ),
    Explanation(
        "T0945",
        "no memory to share between the ranks",
        "Ranks on one host pass data through a file in /dev/shm, which is too small or not writable.",
        "docker run --shm-size 64k ... tesserac run -n 8 out/gpt train",
        "See `df /dev/shm`; give a container more with --shm-size.",
    ),
    Explanation(
        "T0946",
        "no way for the ranks to pass data",
        "Ranks on one host pass data through its memory. On several hosts they need MPI, which is compiled in on "
        "request alone and has to be the one whose mpirun or srun starts them.",
        "srun -N 2 -n 8 out/gpt train   # compiled without MPI",
        "Compile with `make clean` and `make MPI=1`, where mpicxx is installed, and start the ranks with that MPI's "
        "mpirun or with srun; or start all ranks on one host.",
    ),
    Explanation(
        "T0950",
        "a checkpoint of several ranks cannot be used",
        "Every rank writes the parts that it holds into a file of its own, and an index says what is where. A file is "
        "missing, truncated or of another checkpoint, or the index is damaged.",
        "tesserac ckpt merge ckpt/step-000000100 -o model.safetensors   # after rank-00003.safetensors was deleted",
        "Take the files back from where they went, or use the checkpoint of an earlier step. Programs skip a "
        "checkpoint that is not whole and resume from the one before.",
    ),
)
