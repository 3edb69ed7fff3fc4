/* Scores one grey image file (PGM, binary, 8 bits) with the C interface.
 *
 *   score_c bottle.onnx image.pgm
 *
 * Exit code 0 good, 3 anomalous, 1 error, 2 wrong usage. */
#include <agp_edge.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned char* read_pgm(const char* path, int* width, int* height) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return NULL;
  unsigned char* pixels = NULL;
  int largest = 0;
  if (fscanf(file, "P5 %d %d %d", width, height, &largest) == 3 && largest == 255 && *width > 0 &&
      *height > 0 && *width < 65536 && *height < 65536) {
    fgetc(file); /* the one blank before the pixels */
    const size_t size = (size_t)*width * (size_t)*height;
    pixels = malloc(size);
    if (pixels != NULL && fread(pixels, 1, size, file) != size) {
      free(pixels);
      pixels = NULL;
    }
  }
  fclose(file);
  return pixels;
}

static int error(void) {
  fprintf(stderr, "error: %s\n", agp_edge_last_error());
  return 1;
}

static void print_regions(const agp_edge_result* result) {
  for (int32_t i = 0; i < agp_edge_result_region_count(result); ++i) {
    agp_edge_region region = {.struct_size = sizeof region};
    if (agp_edge_result_region(result, i, &region) != AGP_EDGE_OK) return;
    printf("  at x %d y %d, %d x %d pixels, peak %.4g\n", region.x, region.y, region.width,
           region.height, region.peak);
  }
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s MODEL IMAGE.pgm\n", argv[0]);
    return 2;
  }
  agp_edge_options options;
  agp_edge_detector* detector = NULL;
  if (agp_edge_options_init(&options, sizeof options) != AGP_EDGE_OK) return error();
  options.outputs = AGP_EDGE_MASK | AGP_EDGE_REGIONS;
  if (agp_edge_detector_create(argv[1], &options, &detector) != AGP_EDGE_OK) return error();

  int exit_code = 1;
  agp_edge_frame frame = {.struct_size = sizeof frame, .format = AGP_EDGE_MONO8};
  unsigned char* pixels = read_pgm(argv[2], &frame.width, &frame.height);
  if (pixels == NULL) {
    fprintf(stderr, "error: '%s' is not a binary PGM of 8 bits\n", argv[2]);
  } else {
    frame.data = pixels;
    frame.row_pitch = (uint64_t)frame.width;
    agp_edge_result* result = NULL;
    if (agp_edge_detector_score(detector, &frame, &result) != AGP_EDGE_OK) {
      error();
    } else {
      const int anomalous = agp_edge_result_is_anomalous(result);
      printf("%s score %.6g threshold %.6g\n", anomalous ? "anomalous" : "good",
             agp_edge_result_score(result), agp_edge_result_threshold(result));
      print_regions(result);
      exit_code = anomalous ? 3 : 0;
    }
    agp_edge_result_destroy(result);
  }
  free(pixels);
  agp_edge_detector_destroy(detector);
  return exit_code;
}
