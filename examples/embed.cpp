// Embed a picture with an exported encoder, in C++ with onnxruntime alone.
//
//   g++ -std=c++17 examples/embed.cpp -I INCLUDE -L LIB -lonnxruntime -o embed
//   ./embed encoder.onnx picture.ppm
//
// INCLUDE and LIB are the folders of an onnxruntime release archive. encoder.onnx is of the form
// `step`; picture.ppm is a binary PPM of 8 bits (convert picture.jpg picture.ppm). Gaze goes over
// the picture in a grid of 4 x 4. A line is printed for each fixation: the pixel, the surprise in
// nats, and the first numbers of the embedding.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

constexpr double kFocalPx = 277.0;  // of the camera the picture is from
constexpr double kSaccadeScaleRad = 0.1, kGazeScaleRad = 0.25;  // defaults; see its metadata
constexpr int kGrid = 4;

struct Picture {
  int width, height;
  std::vector<uint8_t> rgb;
};

struct Gaze {
  double azimuth_rad, elevation_rad;  // to the right, upwards
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Picture picture{};
  int largest = 0;
  file >> magic >> picture.width >> picture.height >> largest;
  if (!file || magic != "P6" || largest != 255 || picture.width < 1 || picture.height < 1)
    throw std::runtime_error(path + " is no binary PPM of 8 bits");
  file.get();
  picture.rgb.assign(std::istreambuf_iterator<char>(file), {});
  if (picture.rgb.size() < size_t(3) * picture.width * picture.height)
    throw std::runtime_error(path + " is cut short");
  return picture;
}

// The side x side pixels around (x, y) as BGR; beyond the picture its border is repeated.
std::vector<uint8_t> window(const Picture& picture, int x, int y, int side) {
  std::vector<uint8_t> bgr;
  for (int v = y - side / 2; v < y - side / 2 + side; ++v)
    for (int u = x - side / 2; u < x - side / 2 + side; ++u) {
      const int row = std::clamp(v, 0, picture.height - 1);
      const int column = std::clamp(u, 0, picture.width - 1);
      const uint8_t* pixel = &picture.rgb[3 * (size_t(row) * picture.width + column)];
      bgr.insert(bgr.end(), {pixel[2], pixel[1], pixel[0]});
    }
  return bgr;
}

Gaze gaze_at(const Picture& picture, int x, int y) {
  const double right = (x - 0.5 * (picture.width - 1)) / kFocalPx;
  const double down = (y - 0.5 * (picture.height - 1)) / kFocalPx;
  return {std::atan2(right, 1.0), std::atan2(-down, std::hypot(right, 1.0))};
}

void run(const char* encoder, const char* path) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "embed");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, encoder, options);
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  // The inputs are window, efference, state and embedding_before, in this order; N comes first.
  std::vector<std::vector<int64_t>> shapes;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    shapes.push_back(session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape());
    shapes[i][0] = 1;
  }
  if (shapes.size() != 4 || shapes[0].size() != 4)
    throw std::runtime_error(std::string(encoder) + " is not of the form `step` with windows");
  const int side = int(shapes[0][1]);
  std::vector<float> state(shapes[2][1] * shapes[2][2]), embedding(shapes[3][1]);  // no past

  const char* inputs[] = {"window", "efference", "state", "embedding_before"};
  const char* outputs[] = {"embedding", "next_state", "surprise"};
  const Picture picture = read_ppm(path);
  Gaze before{0.0, 0.0};
  for (int i = 0; i < kGrid * kGrid; ++i) {
    const int x = (2 * (i % kGrid) + 1) * picture.width / (2 * kGrid);
    const int y = (2 * (i / kGrid) + 1) * picture.height / (2 * kGrid);
    std::vector<uint8_t> seen = window(picture, x, y, side);
    const Gaze gaze = gaze_at(picture, x, y);
    float efference[] = {float((gaze.azimuth_rad - before.azimuth_rad) / kSaccadeScaleRad),
                         float((gaze.elevation_rad - before.elevation_rad) / kSaccadeScaleRad),
                         float(gaze.azimuth_rad / kGazeScaleRad),
                         float(gaze.elevation_rad / kGazeScaleRad)};
    before = gaze;

    auto floats = [&](float* data, size_t size, int input) {
      const auto& shape = shapes[input];
      return Ort::Value::CreateTensor<float>(memory, data, size, shape.data(), shape.size());
    };
    Ort::Value values[] = {
        Ort::Value::CreateTensor<uint8_t>(memory, seen.data(), seen.size(), shapes[0].data(), 4),
        floats(efference, 4, 1), floats(state.data(), state.size(), 2),
        floats(embedding.data(), embedding.size(), 3)};
    auto found = session.Run(Ort::RunOptions{}, inputs, values, 4, outputs, 3);

    const float* z = found[0].GetTensorData<float>();
    const float* next = found[1].GetTensorData<float>();
    std::copy(z, z + embedding.size(), embedding.begin());
    std::copy(next, next + state.size(), state.begin());
    std::printf("%4d %4d  surprise %8.4f  z", x, y, found[2].GetTensorData<float>()[0]);
    for (size_t j = 0; j < std::min<size_t>(4, embedding.size()); ++j)
      std::printf(" %8.5f", embedding[j]);
    std::printf("\n");
  }
}

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: embed encoder.onnx picture.ppm\n");
    return 2;
  }
  try {
    run(arguments[1], arguments[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "embed: %s\n", error.what());
    return 1;
  }
}
