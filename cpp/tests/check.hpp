// Checks for the C++ tests: each file is one program, its tests register themselves.
//
//   TEST(shrinks_by_half) { CHECK(a == b); CHECK_NEAR(x, y, 1e-6); CHECK_THROWS(f(), Error, "x"); }
//   CHECK_MAIN()
//
// A failed check prints file, line and values, the test goes on, and the program returns 1. An
// exception that leaves a test fails it. Arguments of the program, if any, are substrings of the
// names of the tests to run.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> registered;
  return registered;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

inline int run(int argc, char** argv) {
  int ran = 0;
  for (const Test& test : tests()) {
    bool chosen = argc < 2;
    for (int i = 1; i < argc; ++i) chosen = chosen || std::strstr(test.name, argv[i]) != nullptr;
    if (!chosen) continue;
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    } catch (...) {
      fail(test.name, 0, "unexpected exception that is not a std::exception");
    }
    std::printf("%s %s\n", failures() == before ? "ok    " : "FAILED", test.name);
    ++ran;
  }
  std::printf("%d tests, %d failed checks\n", ran, failures());
  return failures() == 0 && ran > 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                 \
  static void name();                                              \
  static const check::Registration registered_##name(#name, name); \
  static void name()

#define CHECK_MAIN() \
  int main(int argc, char** argv) { return check::run(argc, argv); }

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) check::fail(__FILE__, __LINE__, "CHECK(" #condition ")"); \
  } while (false)

#define CHECK_NEAR(a, b, tolerance)                                                        \
  do {                                                                                     \
    const double check_a = (a), check_b = (b);                                             \
    if (!(std::abs(check_a - check_b) <= (tolerance)))                                     \
      check::fail(__FILE__, __LINE__,                                                      \
                  "CHECK_NEAR(" #a ", " #b "): " + std::to_string(check_a) + " against " + \
                      std::to_string(check_b));                                            \
  } while (false)

// `part` has to be in the message of the exception; the type has to match exactly or by base.
#define CHECK_THROWS(expression, Type, part)                                                       \
  do {                                                                                             \
    bool check_threw = false;                                                                      \
    try {                                                                                          \
      static_cast<void>(expression);                                                               \
    } catch (const Type& check_error) {                                                            \
      check_threw = true;                                                                          \
      if (std::string(check_error.what()).find(part) == std::string::npos)                         \
        check::fail(__FILE__, __LINE__,                                                            \
                    std::string("CHECK_THROWS(" #expression "): \"") + (part) +                    \
                        "\" is not in \"" + check_error.what() + "\"");                            \
    }                                                                                              \
    if (!check_threw) check::fail(__FILE__, __LINE__, "CHECK_THROWS(" #expression "): no " #Type); \
  } while (false)
