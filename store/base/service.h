/*
 * What systemd is told of a daemon it started with Type=notify: datagrams to the socket that
 * NOTIFY_SOCKET names (sd_notify(3) describes them). Elsewhere nothing is sent.
 *
 * Take the socket before other processes are started, which are not to speak for this one.
 */
#ifndef DSYNCFS_BASE_SERVICE_H
#define DSYNCFS_BASE_SERVICE_H

/* Reads the environment, and removes from it what children must not find. Call once, early. */
void service_init(void);
void service_ready(void);
/* Settings are being read again; service_ready() ends that. */
void service_reloading(void);
void service_stopping(void);

/* How often service_alive() is to be called, in milliseconds; 0: nobody waits for it. */
unsigned service_alive_interval_ms(void);
void service_alive(void);

#endif
