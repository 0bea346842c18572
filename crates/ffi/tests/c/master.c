/* A master: prints its port (master [KEY VALUE]..., keys of the configuration), and ends by SIGTERM, whose handler
 * interrupts it, or when its standard input ends. */
#include <pccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static pcclMasterInstance_t *master;

static void stop(int signal) {
    (void)signal;
    pcclInterruptMaster(master);
}

static void *watch(void *unused) {
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    pcclInterruptMaster(master);
    return unused;
}

int main(int argc, char **argv) {
    ccoip_socket_address_t listen;
    pthread_t thread;
    int port = 0;
    memset(&listen, 0, sizeof listen);
    listen.inet.protocol = inetIPv4;
    listen.inet.ipv4.data[0] = 127;
    listen.inet.ipv4.data[3] = 1;
    int fine = pcclCreateMaster(listen, &master) == pcclSuccess;
    for (int i = 1; fine && i + 1 < argc; i += 2) fine = pcclSetMasterOption(master, argv[i], argv[i + 1]) == pcclSuccess;
    if (!fine || pcclRunMaster(master) != pcclSuccess || pcclGetMasterPort(master, &port) != pcclSuccess) {
        fprintf(stderr, "%s\n", pcclGetLastError());
        return 1;
    }
    signal(SIGTERM, stop);
    if (pthread_create(&thread, NULL, watch, NULL) != 0) return 1;
    printf("%d\n", port);
    fflush(stdout);
    if (pcclMasterAwaitTermination(master) != pcclSuccess || pcclDestroyMaster(master) != pcclSuccess) return 1;
    return 0;
}
