real_cpu_avx512.o: csrc/real_cpu_avx512.cpp csrc/real_cpu_rows.h \
 csrc/image_rows.h csrc/codec.h csrc/jpeg_math.h csrc/real_cpu_kernels.h \
 csrc/codec_real.h csrc/real_lanes.h csrc/lanes.h csrc/real_math.h
