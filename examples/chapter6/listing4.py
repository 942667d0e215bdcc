Xf = op.fft(batch["input"])
Yf = op.recursive_mixture([op.mlp(4096, [4096], 4096) for _ in range(4)], depth=3)(Xf)
Y = op.ifft(Yf)
