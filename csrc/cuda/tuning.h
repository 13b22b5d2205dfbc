// Choices that only a GPU can judge, with the values in use. Each is a switch of the compiler, so that
// benchmarks/gpu/sweep.py can try others: benchmarks/results/README.md says which measurement suggests which.
#pragma once

// The forward kernel to the planes: warps of a block, and blocks that a multiprocessor is to hold.
#if !defined(FDJPEG_CODE_WARPS)
#define FDJPEG_CODE_WARPS 8
#endif
#if !defined(FDJPEG_CODE_BLOCKS)
#define FDJPEG_CODE_BLOCKS 4
#endif

// 1: it copies all of a thread's samples to shared memory asynchronously before it converts the first. With float32 no
// more than four warps of a block have the room.
#if !defined(FDJPEG_CODE_ASYNC)
#define FDJPEG_CODE_ASYNC 0
#endif

// The kernel from planes to an image: pixels of a thread, the row of them where samples take four bytes or more, and
// blocks that a multiprocessor is to hold.
#if !defined(FDJPEG_EMIT_PATCH)
#define FDJPEG_EMIT_PATCH 16
#endif
#if !defined(FDJPEG_EMIT_WIDE)
#define FDJPEG_EMIT_WIDE 4
#endif
#if !defined(FDJPEG_EMIT_BLOCKS)
#define FDJPEG_EMIT_BLOCKS 4
#endif

// The straight-through gradient: blocks that a multiprocessor is to hold.
#if !defined(FDJPEG_GRADIENT_BLOCKS)
#define FDJPEG_GRADIENT_BLOCKS 3
#endif

// 1: images are read and written as data that is used once; 0: as any other.
#if !defined(FDJPEG_STREAMING)
#define FDJPEG_STREAMING 1
#endif
