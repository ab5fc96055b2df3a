// What the studio uses of socket.io-client, for `tsc`.
export interface Socket {
  connected: boolean;
  on(event: string, listener: (data: any) => void): Socket;
  emit(event: string, data: object): Socket;
  disconnect(): Socket;
}
export function io(url: string, options: { transports: string[]; auth: object; path: string }): Socket;
