/** The chat of a stream in a window of its own: `/chat/{stream}`. */
import '../style/base.css';
import { ticketIn } from '../watch/ticket';
import { start } from './main';

const stream = decodeURIComponent(location.pathname.split('/')[2] ?? '');
document.title = `${stream} · Chat · Weir`;
start(stream, () => ticketIn(location.hash), null);
