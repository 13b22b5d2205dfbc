codec_cpu_avx512.o: csrc/codec_cpu_avx512.cpp csrc/codec_cpu_rows.h \
 csrc/codec_cpu_kernels.h csrc/codec.h csrc/jpeg_math.h csrc/image_rows.h \
 csrc/lanes.h
