codec_cpu_baseline.o: csrc/codec_cpu_baseline.cpp csrc/codec_cpu_rows.h \
 csrc/codec_cpu_kernels.h csrc/codec.h csrc/jpeg_math.h csrc/image_rows.h \
 csrc/lanes.h
