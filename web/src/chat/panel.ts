/** The markup of a chat, for every page that has one. It knows no stream: whatever is told goes into it as text. */

const MARKUP = `
  <header class="chat-top">
    <h2 id="chat-title">Chat</h2>
    <a id="chat-export" class="chat-me" download hidden>Download</a>
    <button id="chat-moderate" type="button" class="chat-me" hidden>Moderate</button>
    <button id="chat-rename" type="button" class="chat-me" title="Choose another name"><span id="chat-you"></span></button>
    <a id="chat-out" class="chat-me" target="_blank" title="Open the chat in a window of its own" aria-label="Open the chat in a window of its own" hidden>↗</a>
  </header>
  <div class="chat-middle">
    <div id="chat-list" class="chat-list" role="log" aria-label="Messages" tabindex="0"></div>
    <button id="chat-jump" type="button" class="button chat-jump" hidden></button>
  </div>
  <div class="chat-bottom">
    <p id="chat-rules" class="chat-rules" hidden></p>
    <p id="chat-said" class="chat-said" role="status"></p>
    <div id="chat-reply" class="chat-reply" hidden>
      <span id="chat-reply-to"></span><button id="chat-reply-off" type="button" class="chat-off" aria-label="Do not answer">×</button>
    </div>
    <form id="chat-name" class="chat-form" hidden>
      <input id="chat-name-input" class="chat-field" type="text" maxlength="25" required autocomplete="nickname" aria-label="Your name in the chat" placeholder="Choose a name to write" />
      <button id="chat-name-go" type="submit" class="button">Join</button>
    </form>
    <form id="chat-form" class="chat-form" hidden>
      <textarea id="chat-input" class="chat-field" rows="1" maxlength="500" aria-label="Your message" placeholder="Say something"></textarea>
      <button id="chat-pick" type="button" class="chat-off chat-pick" aria-label="Emotes">☺</button>
      <button id="chat-send" type="submit" class="button">Send</button>
    </form>
  </div>
  <div id="chat-menu" class="chat-menu" popover></div>
  <div id="chat-picker" class="chat-menu chat-picker" role="group" aria-label="Emotes" popover></div>`;

/** Fills the page's place for a chat. */
export function fillPanel(place: HTMLElement): void {
  place.innerHTML = MARKUP;
}
