// By which CUDA and for which GPUs the library was built. fdjpeg/_cuda_library.py reads it in the file, before loading.
#include <cuda_runtime_api.h>

#define FDJPEG_TEXT(x) #x
#define FDJPEG_TEXT_OF(x) FDJPEG_TEXT(x)

extern "C" __attribute__((visibility("default"), used)) const char fdjpeg_built_for[] =
    "fdjpeg was built by CUDA " FDJPEG_TEXT_OF(CUDART_VERSION) " for " FDJPEG_TEXT_OF(FDJPEG_ARCHITECTURES);
