/* The few calls of kernel32.dll that the C# of the Windows script makes, over files. Written from their
   documentation (learn.microsoft.com), to find out whether they are called as it says.

   A name is looked up in P2V_DEVICES: lines "name=file". "file:bad" fails to read at byte 1 MiB. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST 0x10000
#define INVALID ((void *)-1)
enum { FILE_NOT_FOUND = 2, ACCESS_DENIED = 5, CRC = 23, INVALID_FUNCTION = 1, MORE_DATA = 234, INSUFFICIENT = 122,
       INVALID_PARAMETER = 87 };

static char paths[64][1024];

static int fail(int code) { errno = code; return 0; }
static int fd_of(void *handle) { return (int)(intptr_t)handle - FIRST; }

void *CreateFileW(const uint16_t *name, uint32_t access, uint32_t share, void *security, uint32_t disposition,
                  uint32_t flags, void *template)
{
    char wanted[512], *devices = strdup(getenv("P2V_DEVICES")), *line;
    int at = 0;
    for (; name[at] && at < 511; at++) wanted[at] = (char)name[at];
    wanted[at] = 0;
    /* A device is opened shared, as it is, and never for writing but to be flushed. */
    if (share != 3 || disposition != 3 || security || template || (access & ~0xC0000000u)) {
        errno = INVALID_PARAMETER;
        return INVALID;
    }
    for (line = strtok(devices, "\n"); line; line = strtok(NULL, "\n")) {
        char *file = strchr(line, '=');
        *file++ = 0;
        if (!strcmp(line, wanted)) {
            int fd = open(file, O_RDONLY);
            if (fd < 0 || fd >= 64) { errno = ACCESS_DENIED; return INVALID; }
            strcpy(paths[fd], file);
            free(devices);
            return (void *)(intptr_t)(fd + FIRST);
        }
    }
    free(devices);
    errno = FILE_NOT_FOUND;
    return INVALID;
}

int SetFilePointerEx(void *handle, int64_t distance, int64_t *position, uint32_t method)
{
    /* A disk wants whole sectors. */
    if (distance % 512 || method) return fail(INVALID_PARAMETER);
    *position = lseek(fd_of(handle), distance, SEEK_SET);
    return 1;
}

int ReadFile(void *handle, void *buffer, uint32_t size, uint32_t *done, void *overlapped)
{
    int fd = fd_of(handle);
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (size % 512 || overlapped) return fail(INVALID_PARAMETER);
    if (getenv("P2V_BAD") && at <= 1048576 && 1048576 < at + size) return fail(CRC);
    *done = (uint32_t)read(fd, buffer, size);
    return 1;
}

int FlushFileBuffers(void *handle)
{
    FILE *log = fopen(getenv("P2V_FLUSHED"), "a");
    fprintf(log, "%s\n", paths[fd_of(handle)]);
    fclose(log);
    return 1;
}

static int64_t size_of(int fd)
{
    struct stat found;
    fstat(fd, &found);
    return found.st_size;
}

static int ntfs_data(int fd, unsigned char *out, uint32_t room, uint32_t *done)
{
    unsigned char boot[512];
    int64_t sectors;
    uint32_t sector, cluster;
    if (pread(fd, boot, 512, 0) != 512 || memcmp(boot + 3, "NTFS    ", 8)) return fail(INVALID_FUNCTION);
    if (room < 96) return fail(INSUFFICIENT);
    memset(out, 0, 96);
    memcpy(&sectors, boot + 40, 8);
    sector = boot[11] | boot[12] << 8;
    cluster = sector * boot[13];
    memcpy(out + 8, &sectors, 8);
    sectors = sectors * sector / cluster;
    memcpy(out + 16, &sectors, 8);
    memcpy(out + 40, &sector, 4);
    memcpy(out + 44, &cluster, 4);
    *done = 96;
    return 1;
}

/* The bits stand in "file.bits". */
static int bitmap(int fd, const unsigned char *in, uint32_t asked, unsigned char *out, uint32_t room, uint32_t *done)
{
    char name[1040];
    int64_t first, clusters, rest;
    unsigned char data[96];
    uint32_t got;
    if (asked != 8 || !ntfs_data(fd, data, 96, &got)) return fail(INVALID_PARAMETER);
    memcpy(&first, in, 8);
    memcpy(&clusters, data + 16, 8);
    snprintf(name, sizeof name, "%s.bits", paths[fd]);
    int bits = open(name, O_RDONLY);
    if (bits < 0) return fail(INVALID_FUNCTION);
    rest = clusters - first;
    memcpy(out, &first, 8);
    memcpy(out + 8, &rest, 8);
    got = (uint32_t)pread(bits, out + 16, room - 16, first / 8);
    close(bits);
    *done = 16 + got;
    return got * 8 >= rest ? 1 : fail(MORE_DATA);
}

int DeviceIoControl(void *handle, uint32_t code, const unsigned char *in, uint32_t asked, unsigned char *out,
                    uint32_t room, uint32_t *done, void *overlapped)
{
    int fd = fd_of(handle);
    int64_t size = size_of(fd);
    switch (code) {
    case 0x0007405C: /* IOCTL_DISK_GET_LENGTH_INFO */
        if (room < 8) return fail(INSUFFICIENT);
        memcpy(out, &size, 8);
        *done = 8;
        return 1;
    case 0x00090083: /* FSCTL_ALLOW_EXTENDED_DASD_IO */
        *done = 0;
        return 1;
    case 0x00090064: return ntfs_data(fd, out, room, done);
    case 0x0009006F: return bitmap(fd, in, asked, out, room, done);
    case 0x00560000: { /* IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS: two of them */
        uint32_t numbers[] = {2, 0, 0, 0};
        int64_t places[] = {1048576, 4194304, 3, 8388608, 16777216};
        memcpy(out, numbers, 16);
        memcpy(out + 16, places, 40);
        *done = 56;
        return 1;
    }
    }
    return fail(INVALID_FUNCTION);
}

int GetFirmwareType(int *kind)
{
    *kind = 2;
    return 1;
}
