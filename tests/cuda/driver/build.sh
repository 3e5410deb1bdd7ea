#!/usr/bin/env bash
# Makes libraries under the names of the CUDA driver, cuBLAS and cuRAND that play them: LD_LIBRARY_PATH=OUT eqdiff ...
# runs as on a GPU, each own kernel under ../emulate.hpp. usage: build.sh CUDARC OUT (the crate's source folder, where to)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) cudarc=$1/src
mkdir -p "$2" && out=$(cd "$2" && pwd)
cxx=${CXX:-c++}
flags=(-std=c++17 -O2 -fPIC -fno-strict-aliasing -fvisibility=hidden -Wno-unknown-pragmas)
objects=()
for source in "$here"/../../../src/ops/cuda/*.cu; do
    name=$(basename "$source" .cu)
    object=$out/$name.o
    objects+=("$object")
    [ "$object" -nt "$source" ] && [ "$object" -nt "$here/../emulate.hpp" ] && [ "$object" -nt "$here/played.hpp" ] && continue
    # the kernels' names are what is exported
    printf '#include "%s/played.hpp"\n#include "%s"\n' "$here" "$source" > "$out/$name.cpp"
    [ ! -e "$here/cost/$name.hpp" ] || printf '#include "%s"\n' "$here/cost/$name.hpp" >> "$out/$name.cpp"
    "$cxx" -std=c++17 -O0 -fno-strict-aliasing -Wno-unknown-pragmas -c "$out/$name.cpp" -o "$object"
    {
        echo 'static bool all = [] {'
        nm --defined-only "$object" | awk '$2 == "T" && $3 !~ /^_Z|^emu_/ { print "    played::enlist(\"'"$name"'\", \"" $3 "\", " $3 ");" }'
        echo '    return true;'
        echo '}();'
    } >> "$out/$name.cpp"
    "$cxx" "${flags[@]}" -c "$out/$name.cpp" -o "$object"
done
for name in driver products candle; do
    objects+=("$out/$name.o")
    [ "$out/$name.o" -nt "$here/$name.cpp" ] && [ "$out/$name.o" -nt "$here/played.hpp" ] || "$cxx" "${flags[@]}" -c "$here/$name.cpp" -o "$out/$name.o"
done
"$cxx" -shared -o "$out/libplayed.so" "${objects[@]}" -Wl,-soname,libplayed.so
nm -D --defined-only "$out/libplayed.so" | awk '{ print $3 }' | sort > "$out/played.txt"
rest() { # cudarc's bindings, the library's name, its soname: what is not played ends the program
    {
        printf '#include <stdio.h>\n#include <stdlib.h>\n'
        grep -oE '\bfn (cu|nvrtc)[a-z]*[A-Z][A-Za-z0-9_]*' "$cudarc/$1/sys/mod.rs" | awk '{ print $2 }' | sort -u | comm -23 - "$out/played.txt" |
            awk '{ print "int " $1 "(void) { fprintf(stderr, \"" $1 " is not played\\n\"); abort(); }" }'
    } > "$out/rest.c"
    cc -shared -fPIC -w -fno-builtin -Wl,-soname,"$3" -o "$out/$3" "$out/rest.c" -L"$out" -Wl,--no-as-needed -lplayed -Wl,-rpath,'$ORIGIN'
    ln -sf "$3" "$out/$2"
}
rest driver libcuda.so libcuda.so.1
rest cublas libcublas.so libcublas.so.13
rest cublaslt libcublasLt.so libcublasLt.so.13
rest curand libcurand.so libcurand.so.10
rest nvrtc libnvrtc.so libnvrtc.so.13
echo 'void cudart(void) {}' | cc -shared -fPIC -x c -Wl,-soname,libcudart.so.13 -o "$out/libcudart.so.13" -
ln -sf libcudart.so.13 "$out/libcudart.so"
