// Input and output of the test programs: raw arrays in call order from the file argv[1], results to the file argv[2]. Each
// array has a heap block of exactly its size, so that AddressSanitizer sees a read or write one element too far.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <memory>

template <class T>
struct Array {
  std::unique_ptr<T[]> memory;
  long size;
  T* get() const { return memory.get(); }
};

class Files {
 public:
  explicit Files(char** argv) : in_(std::fopen(argv[1], "rb")), out_(std::fopen(argv[2], "wb")) {
    if (in_ == nullptr || out_ == nullptr) std::abort();
  }
  ~Files() {
    if (std::fgetc(in_) != EOF) std::abort();  // the two sides disagree about the inputs
    std::fclose(in_);
    std::fclose(out_);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  template <class T>
  Array<T> read(long n) {
    Array<T> a{std::unique_ptr<T[]>(new T[n]), n};
    if (std::fread(a.get(), sizeof(T), n, in_) != size_t(n)) std::abort();
    return a;
  }
  template <class T>
  void write(const T* p, long n) {
    if (std::fwrite(p, sizeof(T), n, out_) != size_t(n)) std::abort();
  }
  template <class T>
  void write(const Array<T>& a) {
    write(a.get(), a.size);
  }

 private:
  std::FILE *in_, *out_;
};
