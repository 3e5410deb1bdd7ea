// Functions of NVIDIA's libraries that load the library when one of them is first called, so that one program runs with and
// without a driver (x86-64, Linux). The build script includes this file with LIBRARIES, the names to try, and appends a
// FUNCTION(name) for each function that Rust's bindings declare.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const NAMES[] = {LIBRARIES, 0};
static void *library;

// The address of a function. The program asks for the libraries before it computes on a device (see mod.rs): what is
// missing here is a function that a library of another version has not.
__attribute__((used)) static void *resolve(const char *name) {
    // the one that the program chose, if it asked before
    for (int i = 0; !library && NAMES[i]; i++) library = dlopen(NAMES[i], RTLD_NOW | RTLD_NOLOAD);
    for (int i = 0; !library && NAMES[i]; i++) library = dlopen(NAMES[i], RTLD_NOW | RTLD_GLOBAL);
    void *found = library ? dlsym(library, name) : 0;
    if (found) return found;
    fprintf(stderr, "error: %s has no %s: %s\n", NAMES[0], name, library ? "it is of another version" : "it is not here");
    exit(1);
}

// Keeps what a call passes in registers, asks for the address (name in rax, where it is kept in r11), and goes there.
__asm__(".text\n.local resolve_first\nresolve_first:\n"
        "push %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\npush %r11\nsub $128, %rsp\n"
        "movups %xmm0, (%rsp)\nmovups %xmm1, 16(%rsp)\nmovups %xmm2, 32(%rsp)\nmovups %xmm3, 48(%rsp)\n"
        "movups %xmm4, 64(%rsp)\nmovups %xmm5, 80(%rsp)\nmovups %xmm6, 96(%rsp)\nmovups %xmm7, 112(%rsp)\n"
        "mov %rax, %rdi\ncall resolve\n"
        "movups (%rsp), %xmm0\nmovups 16(%rsp), %xmm1\nmovups 32(%rsp), %xmm2\nmovups 48(%rsp), %xmm3\n"
        "movups 64(%rsp), %xmm4\nmovups 80(%rsp), %xmm5\nmovups 96(%rsp), %xmm6\nmovups 112(%rsp), %xmm7\n"
        "add $128, %rsp\npop %r11\npop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\n"
        "mov %rax, (%r11)\njmp *%rax\n");

#define FUNCTION(name)                                                                                                 \
    __asm__(".pushsection .data\n.balign 8\naddress_of_" #name ": .quad 0\n.popsection\n"                              \
            ".pushsection .rodata\nname_of_" #name ": .asciz \"" #name "\"\n.popsection\n"                             \
            ".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n"                                        \
            "mov address_of_" #name "(%rip), %rax\ntest %rax, %rax\nje 1f\njmp *%rax\n"                                \
            "1: lea address_of_" #name "(%rip), %r11\nlea name_of_" #name "(%rip), %rax\njmp resolve_first\n");
