// The context switch: callee-saved registers and the stack pointer.
#pragma once
#ifndef __x86_64__
#error "The GPU emulator's fibers are written for x86-64."
#endif

/// Saves the running context in *from and continues the one that `to` points at.
extern "C" void longhaul_emulator_switch(void** from, void* to);
