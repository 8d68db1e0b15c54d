// Runs a package of `evolute export --format pt2` from C++, without Python.
//
//   TORCH=$(python -c "import torch; print(torch.__path__[0])")
//   g++ -std=c++20 run_package.cpp -o run_package -I$TORCH/include \
//       -I$TORCH/include/torch/csrc/api/include -L$TORCH/lib -Wl,-rpath,$TORCH/lib \
//       -ltorch -ltorch_cpu -lc10
//   ./run_package model.pt2 images.f32 2 3 224 224
//
// The images are float32 numbers in the order (batch, channel, row, column), prepared as the
// package's metadata says. The logits are printed, a line for each image.

#include <ATen/ops/empty.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <fstream>
#include <iostream>

int main(int count, char** given) {
    if (count != 7) {
        std::cerr << "run_package PACKAGE IMAGES BATCH CHANNELS HEIGHT WIDTH\n";
        return 2;
    }
    const std::string package = given[1];
    const auto own = std::filesystem::absolute(package).parent_path() / "evolute_operators.so";
    if (std::filesystem::exists(own) && !dlopen(own.c_str(), RTLD_NOW)) {
        std::cerr << dlerror() << "\n";
        return 1;
    }
    std::vector<int64_t> shape;
    for (int i = 3; i < 7; i++) shape.push_back(std::stol(given[i]));
    const at::Tensor images = at::empty(shape);
    const std::streamsize bytes = images.numel() * sizeof(float);
    std::ifstream file(given[2], std::ios::binary);
    if (!file.read(static_cast<char*>(images.data_ptr()), bytes)) {
        std::cerr << given[2] << ": fewer than " << bytes << " bytes\n";
        return 1;
    }
    torch::inductor::AOTIModelPackageLoader network(package);
    const at::Tensor logits = network.run({images}).front();
    std::cout.precision(9);
    for (int64_t image = 0; image < logits.size(0); image++)
        for (int64_t k = 0; k < logits.size(1); k++)
            std::cout << logits[image][k].item<float>() << (k + 1 < logits.size(1) ? " " : "\n");
}
