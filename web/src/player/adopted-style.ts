/**
 * `<adopted-style>`: what a `<style>` inside a shadow root is, under a policy that forbids inline styles.
 *
 * Its text enters as a constructed style sheet adopted by the root it stands in. Like a `<style>` it has
 * `sheet` and follows its `media` attribute. build/adopted-styles.ts puts it into media-chrome's templates.
 * Import this module before any media-chrome element is defined.
 */
class AdoptedStyle extends HTMLElement {
  static readonly observedAttributes = ['media'];

  readonly sheet = new CSSStyleSheet();

  connectedCallback(): void {
    this.adopt();
  }

  attributeChangedCallback(_name: string, _old: string | null, value: string | null): void {
    this.sheet.media.mediaText = value ?? '';
  }

  private adopt(): void {
    const root = this.getRootNode();
    if (!(root instanceof ShadowRoot) || root.adoptedStyleSheets.includes(this.sheet)) return;
    this.sheet.replaceSync(`adopted-style { display: none !important }\n${this.textContent ?? ''}`);
    root.adoptedStyleSheets.push(this.sheet);
  }

  constructor() {
    super();
    // Upgraded in place: the text is already there, and rules may be asked for before it is connected.
    this.adopt();
  }
}

customElements.define('adopted-style', AdoptedStyle);
