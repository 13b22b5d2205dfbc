real_cpu.o: csrc/real_cpu.cpp csrc/checks.h csrc/codec.h csrc/jpeg_math.h \
 csrc/instruction_set.h csrc/real_cpu_kernels.h csrc/codec_real.h
