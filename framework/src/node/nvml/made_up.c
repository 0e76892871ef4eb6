/* A library of the form of libnvidia-ml.so.1 with two cards that are made up: 0 tells everything, 1 does not tell its
   power, its utilisation and its errors. Card 2 is lost. Names, numbers and layouts are those of nvml.h. */

#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25 };

typedef struct { unsigned number; } Card;
static Card cards[] = {{0}, {1}};

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { Card *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;

static unsigned waiting = 2;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, "580.65.06", length);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card **card) {
    if (index > 1) return GPU_IS_LOST;
    *card = &cards[index];
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Card *card, Memory *memory) {
    (void)card;
    if (memory->version != (sizeof(Memory) | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    memory->total = 1000; memory->reserved = 100; memory->free = 600; memory->used = 300;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Card *card, unsigned rates[2]) {
    if (card->number == 1) return NOT_SUPPORTED;
    rates[0] = 97; rates[1] = 40;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Card *card, int *major, int *minor) {
    *major = card->number ? 7 : 9; *minor = card->number ? 5 : 0;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Card *card, unsigned long long *reasons) {
    /* Power cap and hardware thermal slowdown, and one that is not known yet. */
    *reasons = card->number ? 0 : 0x4 | 0x40 | 1ull << 40;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Card *card, int sensor, unsigned *degrees) {
    if (sensor != 0) return NOT_SUPPORTED;
    *degrees = 61 - card->number;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Card *card, unsigned *milliwatts) {
    *milliwatts = 312500;
    return card->number ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(Card *card, unsigned *milliwatts) {
    *milliwatts = 700000;
    return card->number ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetClockInfo(Card *card, int type, unsigned *mhz) {
    static const unsigned clocks[] = {1900, 1980, 3201, 1500};
    *mhz = clocks[type] - card->number;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(Card *card, int kind, int counter, unsigned long long *errors) {
    /* Since the driver was loaded, and then for ever. */
    *errors = (kind == 0 ? 7 : 2) + 1000 * counter;
    return card->number ? NOT_SUPPORTED : SUCCESS;
}

int nvmlEventSetCreate(void **set) { *set = &waiting; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceRegisterEvents(Card *card, unsigned long long types, void *set) {
    (void)set;
    return card->number || types != 8 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned milliseconds) {
    (void)set; (void)milliseconds;
    if (waiting == 0) return TIMEOUT;
    /* 999 is what the driver says for an error that it does not know. */
    *event = (Event){&cards[0], 8, waiting == 2 ? 79 : 999, 0, 0};
    waiting--;
    return SUCCESS;
}
