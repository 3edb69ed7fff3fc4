# Cross-compiles for aarch64 (Jetson) with Debian's or Ubuntu's compiler, and runs what was built in
# qemu's user emulation where that is there:
#
#   apt-get install g++-aarch64-linux-gnu qemu-user
#   cmake --preset aarch64 && cmake --build --preset aarch64 && ctest --preset aarch64
#
# CMAKE_FIND_ROOT_PATH=FOLDER names an unpacked JetPack root file system, whose CUDA and TensorRT
# headers are then found.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(AGP_EDGE_QEMU NAMES qemu-aarch64 qemu-aarch64-static
  DOC "Runs aarch64 programs on this machine")
if(AGP_EDGE_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${AGP_EDGE_QEMU};-L;/usr/aarch64-linux-gnu")
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
# Headers without code of a processor also come from this machine: CUDA's, nlohmann_json's.
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
