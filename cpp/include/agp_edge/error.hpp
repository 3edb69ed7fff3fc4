// The error tree, the same one that Python sees as agp_edge.Error and below.
//
//   Error
//     ModelError       file is not a model of ours, corrupt, wrong version, wrong GPU, bad output
//     FrameError       shape, pixel format, row pitch, region of interest
//     DeviceError      no GPU, CUDA failure, out of memory
//     DataError        data set layout, unreadable image
//     DependencyError  a library that this engine needs is not installed
//     BusyError        as many frames are in flight as may be, and none was answered in time
//
// Every message is one sentence: which thing, what was given, what was expected, what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace agp_edge {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ModelError : public Error {
 public:
  using Error::Error;
};

class FrameError : public Error {
 public:
  using Error::Error;
};

class DeviceError : public Error {
 public:
  using Error::Error;
};

class DataError : public Error {
 public:
  using Error::Error;
};

class DependencyError : public Error {
 public:
  using Error::Error;
};

class BusyError : public Error {
 public:
  using Error::Error;
};

}  // namespace agp_edge
