// The launches of the ops, with the kernels that are in no file of their own.
#include "ops/gpu_launches.h"

#include <stdexcept>
#include <string>

#include "cuda/block_launch.h"
#include "ops/exact_instances.h"
#include "ops/real_instances.h"

namespace fdjpeg {
namespace {

StreamLauncher on(gpu::Stream stream) {
  return {static_cast<cudaStream_t>(stream)};
}

}  // namespace

void refuse_launch(cudaError_t error) {
  throw std::runtime_error(std::string("a kernel of fdjpeg could not be launched: ") + cudaGetErrorString(error));
}

namespace gpu {

void round_trip(const RoundTrip& op, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_round_trip(op, launch);
}

void encode(const Encode& op, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_encode(op, launch);
}

void decode(const Decode& op, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_decode(op, launch);
}

int64_t partials_of(const Geometry& g) {
  return fdjpeg::partials_of(g);
}

void round_trip_backward(const RoundTripBackward& op, float* scratch, float* table_sums, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_round_trip_backward(op, scratch, table_sums, launch);
}

int64_t real_images_at_once(const Geometry& g, SampleType type) {
  return fdjpeg::real_images_at_once(g, type);
}

void real_round_trip(const RealOp& op, void* planes, int64_t at_once, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_real_round_trip(op, planes, at_once, launch);
}

int64_t real_partials_of(const Geometry& g, SampleType type) {
  return fdjpeg::real_partials_of(g, type);
}

void real_backward(const RealOp& op, const Image& grad_input, void* scratch, void* table_sums, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_real_backward(op, grad_input, scratch, table_sums, launch);
}

void block_dct(const BlockTransform& op, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_block_transform<false>(op, launch);
}

void block_idct(const BlockTransform& op, Stream stream) {
  StreamLauncher launch = on(stream);
  launch_block_transform<true>(op, launch);
}

}  // namespace gpu
}  // namespace fdjpeg
