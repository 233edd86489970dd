/** The controls: media-chrome elements used by watch.html, and how a quality is called in the menu. */
import './adopted-style';
import 'media-chrome/dist/media-controller.js';
import 'media-chrome/dist/media-control-bar.js';
import 'media-chrome/dist/media-fullscreen-button.js';
import 'media-chrome/dist/media-live-button.js';
import 'media-chrome/dist/media-loading-indicator.js';
import 'media-chrome/dist/media-mute-button.js';
import 'media-chrome/dist/media-pip-button.js';
import 'media-chrome/dist/media-play-button.js';
import 'media-chrome/dist/media-volume-range.js';
import 'media-chrome/dist/menu/media-chrome-menu-item.js';
import 'media-chrome/dist/menu/media-rendition-menu-button.js';
import { MediaRenditionMenu } from 'media-chrome/dist/menu/media-rendition-menu.js';

MediaRenditionMenu.formatMenuItemText = (text, rendition) => (rendition?.id === 'source' ? `${text} source` : text);
