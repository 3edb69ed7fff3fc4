// The fake driver's own operator new: a test program that counts its allocations does not see those
// of the fake.
//
// Not under a sanitizer, which has operators of its own and wants them in pairs.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <cstddef>
#include <cstdlib>
#include <new>

// Not inlined: GCC would see free() of what operator new returned and warn.
__attribute__((noinline)) void* operator new(std::size_t size) {
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

#endif
