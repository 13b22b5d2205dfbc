// Arguments from Python's ctypes, as the kernels' launches take them. `options` are the horizontal and the vertical
// sampling factor, whether upsampling is fancy, and the order of threads.
#pragma once

#include "emulation.h"

#include "cuda/exact_launch.h"

namespace fdjpeg {

inline Geometry geometry_of(const int64_t* shape, const int* options) {
  return Geometry::of(shape[0], shape[1], shape[2], shape[3], options[0], options[1], options[2] != 0);
}

inline emulation::Launcher launcher_of(const int* options) {
  return {static_cast<emulation::Order>(options[3])};
}

inline Image image_of(void* data, int type, const int64_t* stride) {
  return {data, static_cast<SampleType>(type), {stride[0], stride[1], stride[2], stride[3]}};
}

inline Steps steps_of(const float* tables, int64_t stride, double quality) {
  return {tables, stride, tables == nullptr ? quality_scale(quality) : 0, nullptr};
}

}  // namespace fdjpeg
