codec_cpu.o: csrc/codec_cpu.cpp csrc/checks.h csrc/codec.h \
 csrc/jpeg_math.h csrc/codec_cpu_kernels.h csrc/instruction_set.h
