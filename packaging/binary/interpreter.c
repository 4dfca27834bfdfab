/* The Python of the sandboxes: an ordinary interpreter (-c, -m, FILE, every option) around the libpython that comes along.

   In a sandbox it is mounted as /usr/bin/python3, and the folder that holds its library and modules as /opt/python; elsewhere
   it lies in that folder's bin. It finds out by the folder of libraries, whose name no host has. The dynamic linker does the same by
   the two entries of RPATH (see build.py), which hold for all libraries that are loaded later, too: no variable is needed. */

#include <Python.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define INSIDE "/opt/python"

/* The folder with lib/LIBRARIES in it. */
static const char *home(char *buffer, size_t size) {
    char probe[PATH_MAX + 64];
    ssize_t length = readlink("/proc/self/exe", buffer, size - 1);
    if (length <= 0)
        return INSIDE;
    buffer[length] = 0;
    for (int level = 0; level < 2; level++) {
        char *slash = strrchr(buffer, '/');
        if (slash == NULL)
            return INSIDE;
        *slash = 0;
    }
    snprintf(probe, sizeof probe, "%s/lib/" LIBRARIES, buffer);
    return access(probe, X_OK) == 0 ? buffer : INSIDE;
}

int main(int argc, char **argv) {
    char buffer[PATH_MAX];
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    PyStatus status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesString(&config, &config.home, home(buffer, sizeof buffer));
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_IsExit(status))
        return status.exitcode;
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_RunMain();
}
