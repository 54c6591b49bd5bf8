/* A library that the loader must refuse: not ours, or of another interface version. */
int unrelated;
#ifdef OTHER_VERSION
const void* longhaul_cuda_api(void) {
  static const long long table[64] = {0};
  return table;
}
#endif
