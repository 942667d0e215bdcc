// Switching stacks: six registers on x86-64, ten and eight on ARM. No system call, unlike ucontext.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define TSR_POISON(p, n) __asan_poison_memory_region(p, n)
#define TSR_UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define TSR_POISON(p, n) ((void)(p), (void)(n))
#define TSR_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

/// Saves this execution in *from and goes on where `to` was saved.
extern "C" void tsr_emulation_switch(void** from, void* to);

#if defined(__x86_64__)
// A jump, not a return: the processor's return predictor knows nothing of other stacks.
asm(R"(
.text
.weak tsr_emulation_switch
.type tsr_emulation_switch,@function
tsr_emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  pop %rcx
  jmp *%rcx
.size tsr_emulation_switch,.-tsr_emulation_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak tsr_emulation_switch
.type tsr_emulation_switch,%function
tsr_emulation_switch:
  sub sp,sp,#160
  stp d8,d9,[sp]
  stp d10,d11,[sp,#16]
  stp d12,d13,[sp,#32]
  stp d14,d15,[sp,#48]
  stp x19,x20,[sp,#64]
  stp x21,x22,[sp,#80]
  stp x23,x24,[sp,#96]
  stp x25,x26,[sp,#112]
  stp x27,x28,[sp,#128]
  stp x29,x30,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp d8,d9,[sp]
  ldp d10,d11,[sp,#16]
  ldp d12,d13,[sp,#32]
  ldp d14,d15,[sp,#48]
  ldp x19,x20,[sp,#64]
  ldp x21,x22,[sp,#80]
  ldp x23,x24,[sp,#96]
  ldp x25,x26,[sp,#112]
  ldp x27,x28,[sp,#128]
  ldp x29,x30,[sp,#144]
  add sp,sp,#160
  ret
)");
#else
#error "the emulation knows x86-64 and 64-bit ARM"
#endif

namespace tsr::emulation {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStack = 256 << 10;  // red zones take room
#else
constexpr size_t kStack = 64 << 10;
#endif
constexpr size_t kGuard = 4096;

/// Memory of a stack, lowest address first, with a page below it that may not be touched.
inline char* new_stack() {
  void* const at = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  mprotect(at, kGuard, PROT_NONE);
  return static_cast<char*>(at) + kGuard;
}

/// A context that begins with a call of `entry`, which must not return.
inline void* new_context(char* stack, void (*entry)()) {
  TSR_UNPOISON(stack, kStack);  // a launch that failed left frames behind
  void** top = reinterpret_cast<void**>(stack + kStack);
#if defined(__x86_64__)
  top -= 8;  // six registers, the entry, no return address: `entry` finds the stack as after a call, 8 below a multiple of 16
  memset(top, 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(entry);
#else
  top -= 20;
  memset(top, 0, 20 * sizeof(void*));
  top[19] = reinterpret_cast<void*>(entry);
#endif
  return top;
}

}  // namespace tsr::emulation
