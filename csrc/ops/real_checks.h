// Argument checks of the ops in real numbers, the same on every device.
#pragma once

#include <cmath>
#include <string>

#include "codec/real_jobs.h"
#include "ops/arguments.h"

namespace fdjpeg {

// `parameter` is alpha, or the number of terms.
inline Rounding rounding_of(const std::string& surrogate, double parameter, double floor, bool soft) {
  Rounding rounding{};
  rounding.soft = soft;
  rounding.floor = floor;
  rounding.alpha = parameter;
  if (surrogate == "straight-through") {
    rounding.surrogate = Surrogate::straight_through;
  } else if (surrogate == "zero") {
    rounding.surrogate = Surrogate::zero;
  } else if (surrogate == "cubic") {
    rounding.surrogate = Surrogate::cubic;
  } else if (surrogate == "sine") {
    rounding.surrogate = Surrogate::sine;
  } else if (surrogate == "fourier") {
    rounding.surrogate = Surrogate::fourier;
    rounding.terms = static_cast<int>(parameter);
  } else if (surrogate == "tanh") {
    rounding.surrogate = Surrogate::tanh;
    rounding.norm = 0.5 / std::tanh(parameter / 2);
  } else if (surrogate == "softmax") {
    rounding.surrogate = Surrogate::softmax;
    rounding.norm = std::exp(-2 * parameter);
  } else {
    STD_TORCH_CHECK(
        false, "surrogate must be straight-through, zero, cubic, sine, fourier, tanh or softmax, got ", surrogate);
  }
  STD_TORCH_CHECK(
      !soft || (rounding.surrogate != Surrogate::straight_through && rounding.surrogate != Surrogate::zero),
      "soft needs a surrogate with a smooth forward, got ", surrogate);
  return rounding;
}

// Whether the tables are float64.
inline bool check_real_tables(const Tensor& tables, int64_t images) {
  STD_TORCH_CHECK(
      tables.dim() == 4 && (tables.size(0) == 1 || tables.size(0) == images) && tables.size(1) == 3 &&
          tables.size(2) == 8 && tables.size(3) == 8,
      "tables must have shape (1, 3, 8, 8) or (", images, ", 3, 8, 8), got ", shape_of(tables));
  const bool in_double = tables.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      in_double || tables.scalar_type() == ScalarType::Float, "tables must be float32 or float64, got ",
      torch::headeronly::toString(tables.scalar_type()));
  return in_double;
}

inline void check_mask(const Tensor& mask, const Geometry& g) {
  STD_TORCH_CHECK(
      mask.dim() == 3 && mask.scalar_type() == ScalarType::Byte && mask.size(0) == g.images &&
          mask.size(1) == g.height && mask.size(2) == g.width && mask.is_contiguous(),
      "mask must be contiguous uint8 of shape (", g.images, ", ", g.height, ", ", g.width, "), got ", shape_of(mask));
}

}  // namespace fdjpeg
