# shellcheck shell=bash
# For what llama.cpp is built, and with what: sourced by tools/setup.sh and by a bundle's install.sh, which define say and die.
#
#   SRTUI_LLAMA=auto    CUDA where an NVIDIA GPU answers and nvcc is there, else the CPU (the default)
#              =cpu     even where there is a GPU
#              =cuda    NVIDIA's toolkit (nvcc); for the GPUs in this machine alone
#              =vulkan  every GPU that has a Vulkan driver: AMD, Intel, NVIDIA; glslc and Vulkan's headers
#              =hip     AMD's ROCm (hipconfig, hipBLAS)
#              =metal   Apple
#   CMAKE_ARGS=...      is handed on, behind what follows from that

find_nvcc() { command -v nvcc || { for at in "${CUDA_HOME:-}" /usr/local/cuda; do
    [ -n "$at" ] && [ -x "$at/bin/nvcc" ] && echo "$at/bin/nvcc" && return; done; return 1; }; }
nvidia_answers() { case "$(nvidia-smi -L 2>/dev/null || true)" in *GPU*) ;; *) return 1 ;; esac; }

find_compiler() {
    local candidate
    for candidate in ${CXX:-} c++ g++ clang++; do
        command -v "$candidate" >/dev/null && echo "$candidate" && return
    done
    return 1
}

# The compute capabilities of the GPUs that are here, as CMake wants them ("86-real;89-real").
cuda_architectures() {
    { nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true; } |
        sed -n 's/^ *\([0-9]\{1,2\}\)\.\([0-9]\) *$/\1\2-real/p' | sort -u | paste -sd ';' -
}
amd_architectures() {
    { rocm_agent_enumerator 2>/dev/null || true; } | sed -n '/^gfx000$/d; /^gfx[0-9a-f]*$/p' | sort -u | paste -sd ';' -
}

# Sets llama (cpu, cuda, vulkan, hip, metal), llama_tool (what compiles for it), built_for (in words) and CMAKE_ARGS.
choose_llama() {
    local wanted="${SRTUI_LLAMA:-auto}" there
    llama="$wanted" llama_tool=""
    case "$wanted" in
        auto)
            llama=cpu
            if nvidia_answers; then
                if find_nvcc >/dev/null; then llama=cuda; else
                    say "an NVIDIA GPU answers, and there is no nvcc: llama.cpp is built for the CPU"
                fi
            fi ;;
        cpu | cuda | vulkan | hip | metal) ;;
        *) die "SRTUI_LLAMA=$wanted: it can be auto, cpu, cuda, vulkan, hip or metal." ;;
    esac
    case "$llama" in
        cuda)
            llama_tool="$(find_nvcc)" || die "SRTUI_LLAMA=cuda was asked for, and there is no nvcc; install the CUDA toolkit."
            there="$(cuda_architectures)"
            export CUDACXX="${CUDACXX:-$llama_tool}" CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${there:-all-major} ${CMAKE_ARGS:-}"
            built_for="CUDA, ${there:-every GPU, since none answers} (5 to 20 minutes the first time)" ;;
        vulkan)
            there="$(vulkan_header)"
            llama_tool="$(command -v glslc)" && [ -n "$there" ] && [ -n "$(spirv_headers)" ] ||
                die "SRTUI_LLAMA=vulkan was asked for, and glslc, Vulkan's or SPIR-V's headers are missing; install them (for example: apt install glslc libvulkan-dev spirv-headers)."
            grep -q VK_EXT_layer_settings "$there" ||
                die "Vulkan's headers in $there are older than 1.3.272, which llama.cpp needs; newer ones come with Debian 13 and Ubuntu 24.04, and with Vulkan's SDK (VULKAN_SDK=/its/folder)."
            export CMAKE_ARGS="-DGGML_VULKAN=on -DVulkan_INCLUDE_DIR=${there%/vulkan/*} ${CMAKE_ARGS:-}"
            built_for="Vulkan (10 to 20 minutes the first time)" ;;
        hip)
            llama_tool="$(command -v hipconfig)" || die "SRTUI_LLAMA=hip was asked for, and there is no hipconfig; install ROCm."
            there="$(amd_architectures)"
            export HIPCXX="${HIPCXX:-$(hipconfig -l)/clang}" HIP_PATH="${HIP_PATH:-$(hipconfig -R)}"
            export CMAKE_ARGS="-DGGML_HIP=on ${there:+-DGPU_TARGETS=$there} ${CMAKE_ARGS:-}"
            built_for="ROCm, ${there:-every GPU, since none answers} (10 to 40 minutes the first time)" ;;
        metal)
            [ "$(uname -s)" = Darwin ] || die "SRTUI_LLAMA=metal was asked for, and this is no Mac."
            export CMAKE_ARGS="-DGGML_METAL=on ${CMAKE_ARGS:-}"
            built_for="Metal (2 to 10 minutes the first time)" ;;
        cpu) built_for="this CPU (2 to 10 minutes the first time)" ;;
    esac
}
vulkan_header() {
    find ${VULKAN_SDK:+"$VULKAN_SDK/include"} /usr/local/include /usr/include -maxdepth 2 -path '*/vulkan/vulkan_core.h' 2>/dev/null | head -n 1 || true
}
spirv_headers() {
    find ${VULKAN_SDK:+"$VULKAN_SDK"} /usr/local /usr/share /usr/lib -maxdepth 5 -name 'SPIRV-HeadersConfig.cmake' 2>/dev/null | head -n 1 || true
}

# GCC 12 and others leave out stores that only _tile_loadconfig reads, and llama.cpp's AMX code then dies of an
# illegal instruction. So a compiler that makes AMX code is asked to make some, and to run it.
amx_works() { # compiler, folder
    cat >"$2/amx.cpp" <<'CPP_END'
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
struct Tiles { unsigned char palette = 0, row = 0, reserved[14] = {}; unsigned short bytes[16] = {}; unsigned char rows[16] = {}; };
int main() {
#ifdef __AMX_TILE__
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;  // llama.cpp asks the same, and does without where it is refused
    alignas(64) Tiles tiles = {};
    tiles.palette = 1;
    tiles.rows[4] = 16; tiles.bytes[4] = 64;
    _tile_loadconfig(&tiles);
    _tile_zero(4);
    _tile_release();
#endif
}
CPP_END
    "$1" -O3 -march=native -o "$2/amx" "$2/amx.cpp" 2>/dev/null || return 0
    (ulimit -c 0; "$2/amx")
}

# Prints the compiler's flags that keep llama.cpp off instructions that it would compile wrongly.
llama_flags() { # compiler
    local probe
    [ "$(uname -m)" = x86_64 ] || return 0
    probe="$(mktemp -d)"
    amx_works "$1" "$probe" 2>/dev/null || echo "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    rm -rf "$probe"
}
