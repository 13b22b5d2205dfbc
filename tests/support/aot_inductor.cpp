// Runs a model that AOTInductor packaged: aot_inductor LIBRARY MODEL HEIGHT WIDTH < SAMPLES > SAMPLES
// The library is fdjpeg's own, which registers its ops; samples are float32, one RGB image.

#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::fputs(dlerror(), stderr);
    return 1;
  }
  at::Tensor image = at::empty({1, 3, std::atoi(arguments[3]), std::atoi(arguments[4])}, at::kFloat);
  if (std::fread(image.mutable_data_ptr<float>(), sizeof(float), image.numel(), stdin) != size_t(image.numel())) {
    return 1;
  }
  torch::inductor::AOTIModelPackageLoader model(arguments[2]);
  at::Tensor result = model.run({image})[0].contiguous();
  std::fwrite(result.const_data_ptr<float>(), sizeof(float), result.numel(), stdout);
}
