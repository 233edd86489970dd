/** Keeps the last picture of a video element while its media is exchanged: the element shows its poster until it plays. */
export class LastPicture {
  #video: HTMLVideoElement;

  constructor(video: HTMLVideoElement) {
    this.#video = video;
  }

  /** Whether it stands in for media now. */
  get shown(): boolean {
    return this.#video.hasAttribute('poster');
  }

  keep(): void {
    const video = this.#video;
    const canvas = document.createElement('canvas');
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext('2d')?.drawImage(video, 0, 0);
    video.poster = canvas.toDataURL('image/jpeg');
  }

  drop(): void {
    this.#video.removeAttribute('poster');
  }
}
