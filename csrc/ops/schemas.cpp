// The ops' schemas. Their kernels are registered by {exact,real,block}_{cpu.cpp,cuda.cu}.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fdjpeg, m) {
  m.def(
      "round_trip(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy) "
      "-> (Tensor, Tensor)");
  m.def(
      "round_trip_by_block(Tensor image, Tensor qualities, int horizontal, int vertical, bool fancy) "
      "-> (Tensor, Tensor)");
  m.def(
      "round_trip_backward(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, "
      "int vertical, bool fancy, bool table_gradient) -> (Tensor, Tensor)");
  m.def(
      "surrogate_backward(Tensor grad, Tensor planes, Tensor image, Tensor? tables, float quality, int horizontal, "
      "int vertical, bool fancy, bool table_gradient, Tensor slopes) -> (Tensor, Tensor)");
  m.def(
      "encode(Tensor image, Tensor? tables, float quality, int horizontal, int vertical) -> (Tensor, Tensor, Tensor)");
  m.def(
      "decode(Tensor y, Tensor cb, Tensor cr, Tensor tables, SymInt height, SymInt width, int horizontal, "
      "int vertical, bool fancy, ScalarType dtype) -> Tensor");
  m.def("cpu_instruction_set() -> str");
}

STABLE_TORCH_LIBRARY_FRAGMENT(fdjpeg, m) {
  m.def(
      "real_round_trip(Tensor image, Tensor? tables, float quality, int horizontal, int vertical, bool fancy, "
      "str surrogate, float parameter, float floor, bool soft) -> (Tensor, Tensor)");
  m.def(
      "real_round_trip_backward(Tensor grad, Tensor mask, Tensor image, Tensor? tables, float quality, int horizontal, "
      "int vertical, bool fancy, str surrogate, float parameter, float floor, bool soft, bool table_gradient) "
      "-> (Tensor, Tensor)");
  m.def("block_dct(Tensor samples) -> Tensor");
  m.def("block_idct(Tensor blocks) -> Tensor");
}
